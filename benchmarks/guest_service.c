/* What guests of the fork benchmark run.
 *
 *   guest_service echo PORT MIB   answer every UDP datagram with itself; hold MIB of memory, every page of it written
 *   guest_service write FILE      write steadily: 64 KiB every 20 ms, synced, over and over the same 16 MiB */

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE = 4096, PIECE = 64 * 1024, PIECES = 256, PAUSE_US = 20000 };

static void hold(size_t mebibytes)
{
    size_t size = mebibytes << 20;
    volatile uint64_t *memory;

    if (!size)
        return;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        exit(1);
    for (size_t place = 0; place < size / sizeof *memory; place += PAGE / sizeof *memory)
        memory[place] = place + 1;
}

static int echo(int port, size_t mebibytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char data[1500];
    int descriptor;

    hold(mebibytes);
    descriptor = socket(AF_INET, SOCK_DGRAM, 0);
    if (descriptor < 0 || bind(descriptor, (struct sockaddr *)&address, sizeof address))
        return 1;
    for (;;) {
        socklen_t length = sizeof address;
        ssize_t got = recvfrom(descriptor, data, sizeof data, 0, (struct sockaddr *)&address, &length);
        if (got >= 0)
            sendto(descriptor, data, (size_t)got, 0, (struct sockaddr *)&address, length);
    }
}

static int write_steadily(const char *path)
{
    static char piece[PIECE];
    int descriptor = open(path, O_RDWR | O_CREAT, 0600);

    for (unsigned number = 0; descriptor >= 0; number++) {
        memset(piece, (int)(number % 251) + 1, sizeof piece);
        if (pwrite(descriptor, piece, sizeof piece, (off_t)(number % PIECES) * PIECE) != PIECE || fdatasync(descriptor))
            return 1;
        usleep(PAUSE_US);
    }
    return 1;
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "echo"))
        return echo(atoi(words[2]), strtoul(words[3], NULL, 10));
    if (count == 3 && !strcmp(words[1], "write"))
        return write_steadily(words[2]);
    return 2;
}
