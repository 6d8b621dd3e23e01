//! An IPv4 network: what `network.cidr` holds, and what routes lead to.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::settings::{Input, Value};

/// An IPv4 network, such as `10.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    /// The bits that its addresses have in common; the smaller, the larger it is.
    pub bits: u8,
    first: Ipv4Addr,
}

impl Subnet {
    /// Makes one of its first address.
    pub const fn new(first: [u8; 4], bits: u8) -> Self {
        let [a, b, c, d] = first;
        Self { first: Ipv4Addr::new(a, b, c, d), bits }
    }

    /// Returns its address number `number`, as rootlesskit counts.
    pub fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits().wrapping_add(number))
    }

    /// Reads the network of an address, such as `172.17.0.1/16`.
    pub fn around(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (Ipv4Addr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let rest = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
        let first = Ipv4Addr::from_bits(address.to_bits() & !rest);
        (bits <= 32).then_some(Self { first, bits })
    }

    /// Says whether an address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let bits = self.bits.min(other.bits).min(32);
        let prefix = |subnet: Self| u64::from(subnet.first.to_bits()) >> (32 - bits);
        prefix(self) == prefix(other)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.first, self.bits)
    }
}

impl FromStr for Subnet {
    type Err = ();

    /// Reads what rootlesskit's `--cidr` takes: `10.0.2.100/24` is none.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::around(text).filter(|subnet| subnet.to_string() == text).ok_or(())
    }
}

impl Value for Subnet {
    const EXPECTED: &'static str = "an IPv4 network from /8 to /25 such as 10.0.3.0/24";
    const OR_AUTO: &'static str = "an IPv4 network from /8 to /25 such as 10.0.3.0/24, or auto";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        let read = input.text().and_then(|text| text.to_str()?.parse().ok());
        // slirp4netns takes no smaller one: its own address is number 100.
        read.filter(|subnet: &Self| (8..=25).contains(&subnet.bits)).ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(format!("\"{self}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_as_rootlesskit_reads_it() {
        let read = |text: &str| Subnet::read(&Input::Text(text.into())).ok();
        for text in ["10.0.2.0/24", "10.0.0.0/8", "192.168.65.128/25"] {
            assert_eq!(read(text).map(|subnet| subnet.to_string()).as_deref(), Some(text));
        }
        for text in
            ["", "10.0.2.0", "10.0.2.100/24", "10.0.2.0/26", "0.0.0.0/0", "10.0.2.0/024", "::/64"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn networks_overlap_if_the_smaller_is_in_the_larger() {
        let own: Subnet = "10.0.2.0/24".parse().expect("a network");
        for (other, expected) in [
            ("10.0.2.15/32", true),
            ("10.0.0.0/8", true),
            ("0.0.0.0/0", true),
            ("10.0.3.0/24", false),
            ("10.0.2.0/24", true),
        ] {
            let other: Subnet = other.parse().expect("a network");
            assert_eq!(own.overlaps(other), expected, "{other}");
        }
        assert_eq!(own.address(2).to_string(), "10.0.2.2");
    }
}
