//! The link of the XDP program: native mode only, because generic XDP switches GRO off.

use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId, XdpMode};
use aya::programs::{ProgramError, Xdp};
use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use super::attach::program_id;
use super::pins::{self, Pins};
use super::{DatapathError, Program};
use crate::host::rtnl::Rtnl;

/// Number of the XDP program that runs on a device of the calling thread's namespace, in any mode.
#[must_use]
pub fn attached_xdp(ifindex: u32) -> Option<u32> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let answers = Rtnl::open()
        .and_then(|mut rtnl| rtnl.ask_each(vec![Message::GetLink(link)]))
        .ok()?;
    let Some(Message::NewLink(link)) = answers.into_iter().next()? else {
        return None;
    };
    let id_in = |attributes: Vec<LinkXdp>| {
        attributes.into_iter().find_map(|xdp| {
            if let LinkXdp::ProgId(id) = xdp {
                return Some(id);
            }
            None
        })
    };
    link.attributes.into_iter().find_map(|attribute| {
        if let LinkAttribute::Xdp(attributes) = attribute {
            return id_in(attributes);
        }
        None
    })
}

/// Number of the XDP program on a device, if it is not that of a link that is pinned in `bpf_dir`.
#[must_use]
pub fn foreign_xdp(bpf_dir: &Path, ifindex: u32) -> Option<u32> {
    let attached = attached_xdp(ifindex)?;
    let paths = pins::list(&Pins::at(bpf_dir).links()).unwrap_or_default();
    let is_ours = paths.iter().any(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let parsed = name.and_then(pins::parse_link_name);
        parsed.is_some_and(|(program, _, index)| program.is_xdp() && index == ifindex)
            && PinnedLink::from_pin(path)
                .is_ok_and(|link| program_id(&FdLink::from(link)) == Some(attached))
    });
    (!is_ours).then_some(attached)
}

/// Attaches the program in the driver.
pub(super) fn create(
    xdp: &mut Xdp,
    program: Program,
    ifindex: u32,
) -> Result<FdLink, DatapathError> {
    let attached = xdp.attach_to_if_index(ifindex, XdpMode::Driver);
    let id = attached.map_err(|error| refused(program, error))?;
    take(xdp, program, id)
}

/// Puts the program into an existing link: no frame meets a device without a program.
pub(super) fn replace(
    xdp: &mut Xdp,
    program: Program,
    link: FdLink,
) -> Result<FdLink, DatapathError> {
    let link = XdpLink::try_from(link).map_err(|source| DatapathError::Link {
        program: program.name(),
        source,
    })?;
    let id = xdp
        .attach_to_link(link)
        .map_err(DatapathError::program(program.name(), "replacing"))?;
    take(xdp, program, id)
}

/// Takes the link out of aya's hands, which would detach it at the end.
fn take(xdp: &mut Xdp, program: Program, id: XdpLinkId) -> Result<FdLink, DatapathError> {
    let link = xdp
        .take_link(id)
        .map_err(DatapathError::program(program.name(), "attaching"))?;
    FdLink::try_from(link).map_err(|source| DatapathError::Link {
        program: program.name(),
        source,
    })
}

/// What the kernel means by a number (net/core/dev.c, `dev_xdp_attach`).
fn refused(program: Program, error: ProgramError) -> DatapathError {
    match errno(&error) {
        Some(Errno::EBUSY | Errno::EEXIST) => DatapathError::XdpTaken,
        Some(Errno::EOPNOTSUPP) => DatapathError::XdpUnsupported,
        Some(errno) => DatapathError::XdpRefused { errno },
        None => DatapathError::program(program.name(), "attaching")(error),
    }
}

fn errno(error: &ProgramError) -> Option<Errno> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(this) = cause {
        if let Some(io) = this.downcast_ref::<std::io::Error>() {
            return io.raw_os_error().map(Errno::from_raw);
        }
        cause = this.source();
    }
    None
}
