//! Names and MACs that follow from what an attachment is, the same in every version.

use std::net::IpAddr;

use oxlan_common::addr::Mac;

use super::Key;

/// What the name of every host side begins with.
pub const HOST_IFNAME_PREFIX: &str = "oxl";

/// Name of the host side: the prefix and 44 bits of a hash, 14 characters of the kernel's 15.
/// `attempt` makes another name, should two attachments ever have the same.
pub(super) fn host_ifname(key: &Key, attempt: u32) -> String {
    let parts = [key.container_id.as_bytes(), key.ifname.as_bytes()];
    let mut hash = parts
        .iter()
        .fold(FNV_OFFSET, |hash, part| fnv(fnv(hash, part), b"\0"));
    if attempt > 0 {
        hash = fnv(hash, &attempt.to_be_bytes());
    }
    format!("{HOST_IFNAME_PREFIX}{:011x}", hash >> 20)
}

/// MAC of a pod: `0a:58` (locally administered, unicast) and its IPv4 address, which makes a
/// packet capture readable; without one, a hash of the IPv6 address.
pub(super) fn pod_mac(addresses: &[IpAddr]) -> Mac {
    let v4 = addresses.iter().find_map(|a| match a {
        IpAddr::V4(v4) => Some(v4.octets()),
        IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = v4.unwrap_or_else(|| {
        let hash = addresses
            .iter()
            .fold(FNV_OFFSET, |hash, address| match address {
                IpAddr::V4(_) => hash,
                IpAddr::V6(v6) => fnv(hash, &v6.octets()),
            });
        let [a, b, c, d, ..] = hash.to_be_bytes();
        [a, b, c, d]
    });
    Mac::new([0x0a, 0x58, a, b, c, d])
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: short, stable for ever, and nobody gains by a collision here.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_fit() {
        let key = Key {
            container_id: "c1".into(),
            ifname: "eth0".into(),
        };
        let name = host_ifname(&key, 0);
        assert_eq!(name.len(), 14);
        assert_eq!(name, host_ifname(&key, 0));
        assert_ne!(name, host_ifname(&key, 1));
    }

    #[test]
    fn mac_shows_the_v4_address() {
        let dual = ["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(pod_mac(&dual).to_string(), "0a:58:0a:f4:01:07");
        let v6 = |text: &str| pod_mac(&[text.parse().unwrap()]);
        assert_ne!(v6("fd00::7"), v6("fd00::8"));
        assert!(!v6("fd00::7").is_multicast());
    }
}
