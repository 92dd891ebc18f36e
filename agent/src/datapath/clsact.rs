//! Attaching on kernels before 6.6: filters of the `clsact` queueing discipline.
//!
//! A filter cannot be pinned, but it stays without being pinned. So that attachments are listed in
//! one way, the program itself is pinned where a link would be.

use std::path::Path;

use aya::programs::SchedClassifier;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};

use super::pins::{self, parse_link_name};
use super::{Attached, DatapathError, Program};

/// Priority of our filters: a fixed one, so that a successor finds and replaces them.
const PRIORITY: u16 = 20_000;

/// Handle of our filters within the priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);

pub(super) fn attach(
    classifier: &mut SchedClassifier,
    program: Program,
    ifname: &str,
    path: &Path,
) -> Result<Attached, DatapathError> {
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

pub(super) fn detach(program: Program, ifname: &str) -> Result<(), DatapathError> {
    // Not attached is what the caller wants.
    let _ = qdisc_detach_program(ifname, program.attach_type(), program.name());
    Ok(())
}

/// Detaches the filters behind the pins in `links`, as far as their devices are still there.
pub(super) fn detach_all(links: &Path) -> Result<(), DatapathError> {
    for path in pins::list(links)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((program, ifname, _)) = name.and_then(parse_link_name) {
            detach(program, &ifname)?;
        }
    }
    Ok(())
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
