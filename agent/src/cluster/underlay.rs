//! The own addresses on the underlay, for sources that do not name them.

use std::net::IpAddr;

use crate::host::default_route;
use crate::host::layer3;
use crate::host::rtnl::{Rtnl, RtnlError};

/// Why the own underlay addresses are not known.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// More addresses than a node can have.
    #[error("--underlay {first} and --underlay {second}: one address per family is possible")]
    Twice {
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// The kernel names none.
    #[error(
        "this node's underlay address is not known: there is no default route and no other hint; name the address with --underlay"
    )]
    NoDefaultRoute,
    /// The kernel cannot be asked.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
}

/// The own addresses on the underlay: at most one per family, IPv4 first.
///
/// They are those that were `asked` for (`--underlay`). If there are none, those of `offered` that
/// a device of this machine has; if it has none of them, the source addresses of the default routes.
///
/// # Errors
/// When two of one family are asked for, none is found, or the kernel cannot be asked.
pub fn own_underlay(asked: &[IpAddr], offered: &[IpAddr]) -> Result<Vec<IpAddr>, UnderlayError> {
    if !asked.is_empty() {
        return of_each_family(asked);
    }
    let mut rtnl = Rtnl::open()?;
    let here = layer3::addresses(&mut rtnl)?;
    let here = |a: &IpAddr| here.iter().any(|on_device| on_device.net.addr() == *a);
    let mut own = first_of_each_family(offered.iter().copied().filter(here));
    if own.is_empty() {
        own = first_of_each_family(default_route::own_addresses(&mut rtnl)?.into_iter());
    }
    if own.is_empty() {
        return Err(UnderlayError::NoDefaultRoute);
    }
    Ok(own)
}

/// All of them, or an error that names two of one family.
fn of_each_family(asked: &[IpAddr]) -> Result<Vec<IpAddr>, UnderlayError> {
    let chosen = first_of_each_family(asked.iter().copied());
    for address in asked {
        let same = |c: &&IpAddr| c.is_ipv4() == address.is_ipv4() && *c != address;
        if let Some(first) = chosen.iter().find(same) {
            return Err(UnderlayError::Twice {
                first: *first,
                second: *address,
            });
        }
    }
    Ok(chosen)
}

fn first_of_each_family(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut chosen: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if chosen.iter().all(|c| c.is_ipv4() != address.is_ipv4()) {
            chosen.push(address);
        }
    }
    chosen.sort_by_key(IpAddr::is_ipv6);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_asked_for_counts_and_ipv4_comes_first() {
        let asked = list("fd00::1 192.0.2.1");
        let own = own_underlay(&asked, &list("127.0.0.1")).unwrap();
        assert_eq!(own, list("192.0.2.1 fd00::1"));
    }

    #[test]
    fn two_of_a_family_are_refused_and_named() {
        let refused = own_underlay(&list("192.0.2.1 fd00::1 192.0.2.2"), &[]).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("192.0.2.1") && text.contains("192.0.2.2"),
            "{text}"
        );
    }

    #[test]
    fn of_what_is_offered_only_addresses_of_this_machine_count() {
        let own = own_underlay(&[], &list("203.0.113.7 127.0.0.1")).unwrap();
        assert_eq!(own, list("127.0.0.1"));
    }
}
