//! What a device's driver is and does: requests of the system call ioctl (`SIOCETHTOOL`,
//! include/uapi/linux/ethtool.h), in the network namespace of the calling thread.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCETHTOOL` (include/uapi/linux/sockios.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;

const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_GRO: u32 = 0x2b;
const SET_GRO: u32 = 0x2c;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;

/// `ETH_SS_FEATURES`: the set of strings with the features' names.
const FEATURE_NAMES: u32 = 4;

/// Words of a name: `ETH_GSTRING_LEN` is 32 bytes.
const NAME_WORDS: usize = 8;

/// Words of `struct ethtool_drvinfo`.
const DRIVER_WORDS: usize = 49;

/// A request that the driver or the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} of {ifname}")]
pub struct EthtoolError {
    action: &'static str,
    ifname: String,
    source: Errno,
}

/// Name of a device's driver.
///
/// # Errors
/// When there is no such device, or it tells nothing.
pub fn driver(ifname: &str) -> Result<String, EthtoolError> {
    let mut words = [0; DRIVER_WORDS];
    words[0] = GET_DRIVER;
    ask("read the driver", ifname, &mut words)?;
    Ok(text(&words[1..=NAME_WORDS]))
}

/// Names of a device's features that are on, as `rx-gro-hw`; `ethtool -k` shows some under other names.
///
/// # Errors
/// When there is no such device.
pub fn features(ifname: &str) -> Result<BTreeSet<String>, EthtoolError> {
    let action = "read the features";
    // Command, reserved, the 64 bits of a mask of sets, and the size of the one set that is asked for.
    let mut info = [GET_SET_INFO, 0, 0, 0, 0];
    info[2..4].copy_from_slice(&halves(1_u64 << FEATURE_NAMES));
    ask(action, ifname, &mut info)?;
    let count = info[4] as usize;
    let mut names = vec![0; 3 + count * NAME_WORDS];
    names[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, info[4]]);
    ask(action, ifname, &mut names)?;
    // Each 32 features have four words: available, requested, active, never changed.
    let blocks = count.div_ceil(32);
    let mut state = vec![0; 2 + 4 * blocks];
    state[..2].copy_from_slice(&[GET_FEATURES, info[4].div_ceil(32)]);
    ask(action, ifname, &mut state)?;
    let active = |index: usize| state[2 + index / 32 * 4 + 2] >> (index % 32) & 1 != 0;
    let names = names[3..].chunks(NAME_WORDS).map(text).enumerate();
    Ok(names
        .filter(|(index, _)| active(*index))
        .map(|(_, name)| name)
        .collect())
}

/// Whether GRO is on.
///
/// # Errors
/// When there is no such device.
pub fn gro(ifname: &str) -> Result<bool, EthtoolError> {
    let mut words = [GET_GRO, 0];
    ask("read GRO", ifname, &mut words)?;
    Ok(words[1] != 0)
}

/// Switches GRO on; that of a veth makes it poll (NAPI) for frames that XDP redirects to its peer.
///
/// # Errors
/// When there is no such device, or the kernel refuses.
pub fn set_gro(ifname: &str) -> Result<(), EthtoolError> {
    if !gro(ifname)? {
        ask("switch GRO on", ifname, &mut [SET_GRO, 1])?;
    }
    Ok(())
}

/// A 64-bit number as it lies in memory.
fn halves(number: u64) -> [u32; 2] {
    bytemuck::cast(number)
}

/// A name up to its end, whatever strange bytes it has.
fn text(words: &[u32]) -> String {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// Asks; the answer replaces the request, which says in its own words how much room there is.
fn ask(action: &'static str, ifname: &str, words: &mut [u32]) -> Result<(), EthtoolError> {
    request(ifname, words).map_err(|source| EthtoolError {
        action,
        ifname: ifname.to_owned(),
        source,
    })
}

fn request(ifname: &str, words: &mut [u32]) -> Result<(), Errno> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    if ifname.len() >= name.len() {
        return Err(Errno::ENODEV);
    }
    for (to, byte) in name.iter_mut().zip(ifname.bytes()) {
        *to = libc::c_char::from_ne_bytes([byte]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: words.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the request has a name with its end, and a pointer to words that are borrowed during
    // the call. Each caller gives as many as the structure of its command has, the variable part of
    // which is as long as the request or the answer before says.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_tells_its_features() {
        let features = features("lo").unwrap();
        assert!(features.contains("rx-gro"), "{features:?}");
        assert!(!features.contains("rx-gro-hw"), "{features:?}");
        let error = driver("no-such-device").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the driver of no-such-device"
        );
        assert!(driver("a-name-that-is-too-long").is_err());
    }
}
