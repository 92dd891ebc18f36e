//! Attaching as filters of the `clsact` queueing discipline: pods' devices, and all on kernels before 6.6.
//!
//! A filter cannot be pinned, but it stays without being pinned. So that attachments are listed in
//! one way, the program itself is pinned where a link would be.

use std::path::Path;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramInfo, SchedClassifier};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    self, TcAttribute, TcFilterBpf, TcFilterBpfOption, TcMessage, TcOption,
};

use super::pins::{self, parse_link_name};
use super::{Attached, DatapathError, Program, Side};
use crate::host::rtnl::{Batch, Rtnl};

/// Priority of our filters: a fixed one, so that a successor finds and replaces them.
const PRIORITY: u16 = 20_000;

/// Handle of our filters within the priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// `ETH_P_ALL` (include/uapi/linux/if_ether.h): our filters see every packet.
const ALL_PROTOCOLS: u16 = 3;

pub(super) fn attach(
    classifier: &mut SchedClassifier,
    program: Program,
    ifname: &str,
    ifindex: u32,
    path: &Path,
) -> Result<Attached, DatapathError> {
    let own = classifier.info().ok().map(|info| info.id());
    if own.is_some() && pinned(path) == own && attached(program, ifindex) == own {
        return Ok(Attached::Kept);
    }
    // Fails when it is there already; when it could not be made, attaching says so.
    let _ = qdisc_add_clsact(ifname);
    let attached = match replace(classifier, program, ifname) {
        Ok(()) => Attached::Replaced,
        Err(_) => {
            create(classifier, program, ifname)?;
            Attached::New
        }
    };
    pins::remove_file(path)?;
    classifier.pin(path).map_err(pins::pin(path))?;
    Ok(attached)
}

/// Whether the device runs the program that is pinned for it.
pub(super) fn runs(program: Program, ifindex: u32, path: &Path) -> bool {
    let pinned = pinned(path);
    pinned.is_some() && pinned == attached(program, ifindex)
}

/// Number of the program that is pinned for a device.
fn pinned(path: &Path) -> Option<u32> {
    ProgramInfo::from_pin(path).ok().map(|info| info.id())
}

/// Number of the program in our filter on a device.
fn attached(program: Program, ifindex: u32) -> Option<u32> {
    let question = RouteNetlinkMessage::GetTrafficFilter(own_filter(program, ifindex)?);
    let answers = Rtnl::open().ok()?.ask_each(vec![question]).ok()?;
    let Some(RouteNetlinkMessage::NewTrafficFilter(filter)) = answers.into_iter().next()? else {
        return None;
    };
    let options = filter.attributes.into_iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute {
            return Some(options);
        }
        None
    })?;
    options.into_iter().find_map(|option| {
        if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
            return Some(id);
        }
        None
    })
}

/// What names our filter on a device.
fn own_filter(program: Program, ifindex: u32) -> Option<TcMessage> {
    let mut message = filters(program.side(), ifindex)?;
    message.header.handle = u32::from(HANDLE).into();
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    message
        .attributes
        .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    Some(message)
}

/// What names all filters on one side of a device.
fn filters(side: Side, ifindex: u32) -> Option<TcMessage> {
    let mut message = TcMessage::with_index(ifindex.try_into().ok()?);
    message.header.parent = tc::TcHandle {
        major: tc::TcHandle::CLSACT.major,
        minor: match side {
            Side::Ingress => tc::TcHandle::MIN_INGRESS,
            Side::Egress => tc::TcHandle::MIN_EGRESS,
        },
    };
    Some(message)
}

/// A request to remove the `clsact` discipline of a device, if it is that and not `ingress`.
fn qdisc(ifindex: u32) -> Option<RouteNetlinkMessage> {
    let mut message = TcMessage::with_index(ifindex.try_into().ok()?);
    message.header.parent = tc::TcHandle::CLSACT;
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    Some(RouteNetlinkMessage::DelQueueDiscipline(message))
}

pub(super) fn detach(program: Program, ifname: &str) -> Result<(), DatapathError> {
    // Not attached is what the caller wants.
    let _ = qdisc_detach_program(ifname, program.attach_type(), program.name());
    Ok(())
}

/// Detaches the filters behind the pins in `links`, as far as their devices are still there.
pub(super) fn detach_all(links: &Path) -> Result<(), DatapathError> {
    for path in pins::list(links)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let parsed = name.and_then(parse_link_name);
        // The link of an XDP program ends with its pin.
        if let Some((program, ifname, _)) = parsed.filter(|(program, ..)| !program.is_xdp()) {
            detach(program, &ifname)?;
            remove_empty_qdisc(&ifname);
        }
    }
    Ok(())
}

/// Removes the queueing discipline that held our filters, unless others have filters there.
fn remove_empty_qdisc(ifname: &str) {
    let Ok(ifindex) = if_nametoindex(ifname) else {
        return;
    };
    let is_empty = |rtnl: &mut Rtnl, side| {
        let question = RouteNetlinkMessage::GetTrafficFilter(filters(side, ifindex)?);
        let found = rtnl.dump("list filters", question).ok()?;
        Some(found.is_empty())
    };
    let Ok(mut rtnl) = Rtnl::open() else {
        return;
    };
    // Where there is no such discipline, the kernel lists nothing, and has nothing to remove.
    if [Side::Ingress, Side::Egress]
        .into_iter()
        .all(|side| is_empty(&mut rtnl, side) == Some(true))
    {
        let mut batch = Batch::new();
        if let Some(qdisc) = qdisc(ifindex) {
            batch.remove("remove the clsact discipline", qdisc);
        }
        // It does nothing without filters: one that stays is no reason to stop.
        let _ = rtnl.run(batch);
    }
}

fn create(
    classifier: &mut SchedClassifier,
    program: Program,
    ifname: &str,
) -> Result<(), DatapathError> {
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let id = classifier
        .attach_with_options(
            ifname,
            program.attach_type(),
            TcAttachOptions::Netlink(options),
        )
        .map_err(DatapathError::program(program.name(), "attaching"))?;
    keep(classifier, program, id)
}

fn replace(
    classifier: &mut SchedClassifier,
    program: Program,
    ifname: &str,
) -> Result<(), DatapathError> {
    let error = DatapathError::program(program.name(), "replacing");
    let link = SchedClassifierLink::attached(ifname, program.attach_type(), PRIORITY, HANDLE, None)
        .map_err(|source| error(aya::programs::tc::TcError::IoError(source).into()))?;
    let id = classifier.attach_to_link(link).map_err(&error)?;
    keep(classifier, program, id)
}

/// Takes the filter out of aya's hands, which would detach it at the end.
fn keep(
    classifier: &mut SchedClassifier,
    program: Program,
    id: aya::programs::tc::SchedClassifierLinkId,
) -> Result<(), DatapathError> {
    let link = classifier
        .take_link(id)
        .map_err(DatapathError::program(program.name(), "attaching"))?;
    std::mem::forget(link);
    Ok(())
}
