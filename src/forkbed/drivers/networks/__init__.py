"""Networks on Linux: bridge, service namespace, dnsmasq, filters, NAT and published ports.

`linux` implements the port. What a rule set or a configuration file says is rendered by pure functions
(`filters`, `host_rules`, `service_rules`, `dnsmasq`); `links`, `namespaces`, `nft` and `keeper` touch the host.
"""
