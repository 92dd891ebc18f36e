//! Attaches programs to devices, replaces them without a gap, and tells what is attached.

use aya::programs::SchedClassifier;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use nix::net::if_::if_nametoindex;

use super::load::{self, classifier};
use super::pins::{self, parse_link_name};
use super::{AttachMode, Datapath, DatapathError, Loaded, Program, clsact, features, xdp};

/// What [`Datapath::attach`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing was attached; now the program is.
    New,
    /// Another version of the program was attached; it was replaced without a gap.
    Replaced,
    /// This very program was attached already.
    Kept,
}

/// A pinned attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Which program.
    pub program: Program,
    /// Name of the device when the program was attached.
    pub ifname: String,
    /// Index of the device.
    pub ifindex: u32,
    /// Whether the device is there and runs the program.
    pub alive: bool,
}

impl AttachMode {
    /// What the running kernel can do.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        if features::has_tcx() {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }

    /// How a kernel that can do `self` gets a program onto a new device.
    ///
    /// On pods' devices always as a filter: a new TCX link waits for a grace period of RCU while it
    /// holds the kernel's lock on links (kernel/bpf/tcx.c, `tcx_entry_sync`; 15 ms at 250 Hz), and
    /// so does the end of a device that has one. A filter of a new `clsact` waits for an expedited one, below 1 ms.
    /// An XDP program always has a link.
    pub(super) const fn of(self, program: Program) -> Self {
        match program {
            Program::FromPod | Program::ToPod => Self::Clsact,
            Program::FromUplink | Program::FromOverlay | Program::ToOverlay => self,
            Program::XdpUplink => Self::Tcx,
        }
    }
}

impl Datapath {
    /// Attaches `program` to a device and pins the link; a predecessor's program is replaced atomically.
    ///
    /// # Errors
    ///
    /// The device is gone, or the kernel refuses.
    pub fn attach(
        &self,
        program: Program,
        ifname: &str,
        ifindex: u32,
    ) -> Result<Attached, DatapathError> {
        check_device(ifname, ifindex)?;
        let mut loaded = self.lock();
        self.load_late(&mut loaded, program)?;
        match self.mode_for(&loaded, program, ifname, ifindex) {
            AttachMode::Tcx => self.attach_link(&mut loaded, program, ifname, ifindex),
            AttachMode::Clsact => {
                let path = self.pins.link(program, ifname, ifindex);
                // A link that is not in force any more must not come back as a pin.
                loaded.links.remove(&(program, ifindex));
                self.pins.create_dirs()?;
                // A filter without a pin beside it would be nobody's.
                self.pins.require_bpffs()?;
                clsact::attach(
                    classifier(&mut loaded.ebpf, program)?,
                    program,
                    ifname,
                    ifindex,
                    &path,
                )
            }
        }
    }

    /// Detaches `program` from a device and removes the pin; succeeds when it is not attached.
    ///
    /// # Errors
    ///
    /// The pin cannot be removed.
    pub fn detach(
        &self,
        program: Program,
        ifname: &str,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        let mut loaded = self.lock();
        if self.mode.of(program) == AttachMode::Clsact && check_device(ifname, ifindex).is_ok() {
            clsact::detach(program, ifname)?;
        }
        pins::remove_file(&self.pins.link(program, ifname, ifindex))?;
        // The last reference: the kernel detaches the program here.
        loaded.links.remove(&(program, ifindex));
        Ok(())
    }

    /// What is pinned as attached, and whether it really is.
    ///
    /// # Errors
    ///
    /// The directory of pins cannot be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, DatapathError> {
        let loaded = self.lock();
        let mut attachments = Vec::new();
        for path in pins::list(&self.pins.links())? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((program, ifname, ifindex)) = name.and_then(parse_link_name) {
                attachments.push(Attachment {
                    program,
                    alive: self.is_alive(&loaded, program, &ifname, ifindex),
                    ifname,
                    ifindex,
                });
            }
        }
        Ok(attachments)
    }

    /// Pins again the links whose pins somebody has removed.
    pub(super) fn repair_links(
        &self,
        loaded: &mut Loaded,
        repaired: &mut Vec<String>,
    ) -> Result<(), DatapathError> {
        self.pins.require_bpffs()?;
        let mut result = Ok(());
        for ((program, ifindex), link) in std::mem::take(&mut loaded.links) {
            let ifname = device_name(ifindex);
            let path = ifname.map(|ifname| self.pins.link(program, &ifname, ifindex));
            let link = match path {
                Some(path) if !path.exists() => match link.pin(&path) {
                    Ok(pinned) => {
                        repaired.push(path.display().to_string());
                        FdLink::from(pinned)
                    }
                    // The link is lost with the failure; the others must not be lost with it.
                    Err(error) => {
                        result = result.and(Err(pins::pin(&path)(error)));
                        continue;
                    }
                },
                Some(_) | None => link,
            };
            loaded.links.insert((program, ifindex), link);
        }
        result
    }

    fn attach_link(
        &self,
        loaded: &mut Loaded,
        program: Program,
        ifname: &str,
        ifindex: u32,
    ) -> Result<Attached, DatapathError> {
        let path = self.pins.link(program, ifname, ifindex);
        self.pins.create_dirs()?;
        let held = loaded.links.remove(&(program, ifindex));
        let existing = held.or_else(|| PinnedLink::from_pin(&path).ok().map(FdLink::from));
        let own = load::program_id(&mut loaded.ebpf, program)?;
        let reusable = existing.filter(|link| runs(link, program, ifname, ifindex));
        let (attached, link) = match reusable {
            Some(link) if program_id(&link) == own => (Attached::Kept, link),
            Some(link) => (Attached::Replaced, replace(loaded, program, link)?),
            None => {
                // A link whose device is gone, or that somebody detached, cannot be used again.
                pins::remove_file(&path)?;
                (Attached::New, create(loaded, program, ifname, ifindex)?)
            }
        };
        let mut pinned = Ok(());
        let link = if path.exists() {
            link
        } else {
            pinned = self.pins.require_bpffs();
            if pinned.is_ok() {
                FdLink::from(link.pin(&path).map_err(pins::pin(&path))?)
            } else {
                link
            }
        };
        loaded.links.insert((program, ifindex), link);
        pinned.map(|()| attached)
    }

    /// How to attach a program: a link that is in force stays one, so that what it holds can be replaced without a gap.
    fn mode_for(
        &self,
        loaded: &Loaded,
        program: Program,
        ifname: &str,
        ifindex: u32,
    ) -> AttachMode {
        if self.may_have_link(program) && self.runs_link(loaded, program, ifname, ifindex) {
            return AttachMode::Tcx;
        }
        self.mode.of(program)
    }

    /// Whether there can be a link of a program: if not, nobody need look for one.
    fn may_have_link(&self, program: Program) -> bool {
        self.mode == AttachMode::Tcx || program.is_xdp()
    }

    fn is_alive(&self, loaded: &Loaded, program: Program, ifname: &str, ifindex: u32) -> bool {
        if check_device(ifname, ifindex).is_err() {
            return false;
        }
        let path = self.pins.link(program, ifname, ifindex);
        let is_filter = self.mode.of(program) == AttachMode::Clsact;
        (is_filter && clsact::runs(program, ifindex, &path))
            || (self.may_have_link(program) && self.runs_link(loaded, program, ifname, ifindex))
    }

    /// Whether a link that we hold, or that is pinned, is in force on the device.
    fn runs_link(&self, loaded: &Loaded, program: Program, ifname: &str, ifindex: u32) -> bool {
        if let Some(link) = loaded.links.get(&(program, ifindex)) {
            return runs(link, program, ifname, ifindex);
        }
        let path = self.pins.link(program, ifname, ifindex);
        PinnedLink::from_pin(path)
            .is_ok_and(|link| runs(&FdLink::from(link), program, ifname, ifindex))
    }
}

/// Whether the device runs the program of this link.
fn runs(link: &FdLink, program: Program, ifname: &str, ifindex: u32) -> bool {
    let Some(id) = program_id(link) else {
        return false;
    };
    if program.is_xdp() {
        return xdp::attached_xdp(ifindex) == Some(id);
    }
    SchedClassifier::query_tcx(ifname, program.attach_type())
        .is_ok_and(|(_, programs)| programs.iter().any(|info| info.id() == id))
}

pub(super) fn program_id(link: &FdLink) -> Option<u32> {
    link.info().ok().map(|info| info.program_id())
}

/// Puts the program into an existing link: no packet meets a device without a program.
fn replace(loaded: &mut Loaded, program: Program, link: FdLink) -> Result<FdLink, DatapathError> {
    if program.is_xdp() {
        return xdp::replace(load::xdp(&mut loaded.ebpf, program)?, program, link);
    }
    let classifier = classifier(&mut loaded.ebpf, program)?;
    let error = DatapathError::program(program.name(), "replacing");
    let link = SchedClassifierLink::try_from(link).map_err(|source| DatapathError::Link {
        program: program.name(),
        source,
    })?;
    let id = classifier.attach_to_link(link).map_err(error)?;
    take(classifier, program, id)
}

fn create(
    loaded: &mut Loaded,
    program: Program,
    ifname: &str,
    ifindex: u32,
) -> Result<FdLink, DatapathError> {
    if program.is_xdp() {
        return xdp::create(load::xdp(&mut loaded.ebpf, program)?, program, ifindex);
    }
    let classifier = classifier(&mut loaded.ebpf, program)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = classifier
        .attach_with_options(ifname, program.attach_type(), options)
        .map_err(DatapathError::program(program.name(), "attaching"))?;
    take(classifier, program, id)
}

/// Takes the link out of aya's hands, which would detach it at the end.
fn take(
    classifier: &mut SchedClassifier,
    program: Program,
    id: aya::programs::tc::SchedClassifierLinkId,
) -> Result<FdLink, DatapathError> {
    let link = classifier
        .take_link(id)
        .map_err(DatapathError::program(program.name(), "attaching"))?;
    FdLink::try_from(link).map_err(|source| DatapathError::Link {
        program: program.name(),
        source,
    })
}

/// Refuses when the name belongs to another device by now.
fn check_device(ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
    if if_nametoindex(ifname) == Ok(ifindex) {
        Ok(())
    } else {
        Err(DatapathError::NoDevice {
            ifname: ifname.to_owned(),
            ifindex,
        })
    }
}

fn device_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    // nix takes the null pointer that means "no such device" for success.
    name.into_string().ok().filter(|name| !name.is_empty())
}
