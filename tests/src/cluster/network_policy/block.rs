//! Ranges of addresses.

use std::fmt;
use std::net::Ipv4Addr;

/// All addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    first: u32,
    length: u32,
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from_bits(self.first), self.length)
    }
}

impl Block {
    /// Of `10.0.0.0/8`; none of other things, such as IPv6, which the cluster's network does not have.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (address, length): (Ipv4Addr, u32) = (address.parse().ok()?, length.parse().ok()?);
        (length <= 32).then(|| Self { first: address.to_bits() & mask(length), length })
    }

    fn contains(self, other: Self) -> bool {
        self.length <= other.length && other.first & mask(self.length) == self.first
    }

    /// What is left without some of its parts, in as few blocks as there are.
    pub(super) fn without(self, parts: &[Self]) -> Vec<Self> {
        if parts.iter().any(|part| part.contains(self)) {
            return Vec::new();
        }
        if !parts.iter().any(|part| self.contains(*part)) {
            return vec![self];
        }
        // It contains a smaller one, so it is more than one address and has two halves.
        let length = self.length + 1;
        let second = self.first | (1 << (32 - length));
        [self.first, second].into_iter().flat_map(|first| Self { first, length }.without(parts)).collect()
    }
}

fn mask(length: u32) -> u32 {
    u32::MAX.checked_shl(32 - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(block: &str, parts: &[&str]) -> Option<Vec<String>> {
        let parts = parts.iter().map(|part| Block::parse(part)).collect::<Option<Vec<_>>>()?;
        Some(Block::parse(block)?.without(&parts).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn parts_are_taken_out() {
        let is = |left: &[&str]| Some(left.iter().map(|block| (*block).to_owned()).collect::<Vec<_>>());
        assert_eq!(without("10.1.2.3/8", &[]), is(&["10.0.0.0/8"]));
        assert_eq!(without("10.0.0.0/30", &["10.0.0.1/32"]), is(&["10.0.0.0/32", "10.0.0.2/31"]));
        assert_eq!(without("10.0.0.0/31", &["10.0.0.0/32", "10.0.0.1/32"]), is(&[]));
        assert_eq!(without("10.0.0.0/24", &["10.0.0.0/8"]), is(&[]));
        assert_eq!(without("10.0.0.0/24", &["11.0.0.0/8"]), is(&["10.0.0.0/24"]));
        assert_eq!(without("0.0.0.0/0", &["169.254.169.254/32"]).map(|left| left.len()), Some(32));
    }

    #[test]
    fn what_is_no_block_of_this_network_is_none() {
        assert_eq!(["fd00::/8", "10.0.0.1", "10.0.0.0/33"].map(Block::parse), [None; 3]);
    }
}
