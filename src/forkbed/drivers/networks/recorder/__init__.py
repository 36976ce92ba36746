"""The recorder of one fork's network: the process at which everything ends that guests send out of their network.

It runs in the network's service namespace, where the rules hand TCP and UDP for anywhere to its port (see
`service_rules`), and dnsmasq its questions about names that are not the system's. It opens its sockets and files as
root and goes on without any rights; it opens no connection of its own, ever. What a guest can make it hold or write
is bounded: what is beyond is counted, and told as dropped.

`python -m forkbed.drivers.networks.recorder SETTINGS` is what a keeper starts (`program`). What that imports is little:
there is one such process for each network of each fork. `files` are read by `LinuxNetworks` too; `kept` and `program`
are for it alone.
"""
