//! The addresses that the host uses: where its routes lead, its own, and its name servers'.

use crate::settings::Subnet;

/// A route to so much of the Internet is a default route in parts, as VPNs make them.
const DEFAULT_IN_PARTS: u8 = 7;

/// Reads `/proc/net/fib_trie`, which has the routes of all tables, also those of policy rules.
/// Default routes say nothing of who is there, nor does the loopback.
pub fn parse_fib_trie(text: &str) -> Vec<Subnet> {
    let mut found = Vec::new();
    let mut first = "";
    for line in text.lines().map(str::trim_start) {
        match line.split_once(' ') {
            Some(("|--", address)) => first = address,
            Some((bits, kind)) if kind.ends_with("UNICAST") || kind.ends_with("LOCAL") => {
                found.extend(format!("{first}{bits}").parse::<Subnet>());
            }
            _ => {}
        }
    }
    let loopback = Subnet::new([127, 0, 0, 0], 8);
    found.retain(|subnet| subnet.bits > DEFAULT_IN_PARTS && !subnet.overlaps(loopback));
    found.sort();
    found.dedup();
    found
}

/// Reads the name servers in resolv.conf(5).
pub fn parse_name_servers(text: &str) -> impl Iterator<Item = Subnet> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        format!("{address}/32").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_from_every_table() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
             +-- 10.0.2.0/24 2 0 2\n        |-- 10.0.2.0\n           /24 link UNICAST\n           \
             /32 link BROADCAST\n        |-- 10.0.2.15\n           /32 host LOCAL\n     |-- 127.0.0.0\n        \
             /8 host LOCAL\n     |-- 128.0.0.0\n        /1 universe UNICAST\n     |-- 10.8.0.0\n        \
             /16 universe UNREACHABLE\nId 52:\n     |-- 172.16.0.0\n        /12 universe UNICAST\n     \
             |-- 10.0.2.0\n        /24 link UNICAST\n";
        let found: Vec<String> = parse_fib_trie(text).iter().map(Subnet::to_string).collect();
        assert_eq!(found, ["172.16.0.0/12", "10.0.2.0/24", "10.0.2.15/32"]);
    }

    #[test]
    fn name_servers_are_addresses_in_use() {
        let text = "# nameserver 1.1.1.1\nsearch a\nnameserver 10.0.2.53\nnameserver\t::1\n";
        let found: Vec<String> =
            parse_name_servers(text).map(|subnet| subnet.to_string()).collect();
        assert_eq!(found, ["10.0.2.53/32"]);
    }
}
