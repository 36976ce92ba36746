/* Frames in and out of an interface, for guests that have nothing else to send raw frames with.
 *
 *   frames send IFACE            sends each line of standard input, a frame in hexadecimal digits
 *   frames watch IFACE SECONDS   says "ready", then which markers ("atk", "ctl" or "awy" and 5 characters) it sees
 *                                in incoming frames, until one with "forkbed-last-frame" or the time is over
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static int open_interface(const char *name) {
    int opened = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    address.sll_ifindex = if_nametoindex(name);
    if (opened < 0 || !address.sll_ifindex || bind(opened, (struct sockaddr *)&address, sizeof address) < 0) {
        perror(name);
        exit(1);
    }
    return opened;
}

static int send_frames(int opened) {
    static char line[8192];
    static unsigned char frame[4096];
    while (fgets(line, sizeof line, stdin)) {
        size_t length = 0;
        unsigned int byte;
        while (length < sizeof frame && sscanf(line + 2 * length, "%2x", &byte) == 1) frame[length++] = byte;
        if (length && send(opened, frame, length, 0) < 0) {
            perror("send");
            return 1;
        }
    }
    return 0;
}

static int watch(const char *name, int seconds) {
    int opened = open_interface(name);
    static unsigned char frame[65536];
    struct timespec now, deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += seconds;
    struct pollfd readable = {.fd = opened, .events = POLLIN};
    /* Else the virtual card already keeps away what is for other MACs, groups and VLANs. */
    struct packet_mreq everything = {.mr_ifindex = if_nametoindex(name), .mr_type = PACKET_MR_PROMISC};
    setsockopt(opened, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &everything, sizeof everything);
    puts("ready");
    fflush(stdout);
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec >= deadline.tv_sec) break;
        struct sockaddr_ll source;
        socklen_t size = sizeof source;
        if (poll(&readable, 1, 500) <= 0) continue;
        ssize_t length = recvfrom(opened, frame, sizeof frame, 0, (struct sockaddr *)&source, &size);
        if (length <= 0 || source.sll_pkttype == PACKET_OUTGOING) continue;
        const char *kinds[] = {"atk", "ctl", "awy"};
        for (int kind = 0; kind < 3; kind++) {
            unsigned char *found = memmem(frame, length, kinds[kind], 3);
            if (found && found + 8 <= frame + length) printf("%.8s\n", found);
        }
        if (memmem(frame, length, "forkbed-last-frame", 18)) break;
    }
    puts("end");
    return 0;
}

int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "send")) return send_frames(open_interface(words[2]));
    if (count == 4 && !strcmp(words[1], "watch")) return watch(words[2], atoi(words[3]));
    fputs("usage: frames send IFACE | frames watch IFACE SECONDS\n", stderr);
    return 2;
}
