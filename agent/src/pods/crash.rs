//! The points between the steps of ADD and DEL at which tests let the agent die.

use std::fmt;

/// Environment variable that names the [`Step`] after which the agent aborts.
pub const CRASH_AT: &str = "OXLAN_CRASH_AT";

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// What has just been done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step { $($(#[doc = $doc])+ $variant,)+ }

        impl Step {
            /// Every step, those of ADD first, in their order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name for `OXLAN_CRASH_AT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

steps! {
    /// ADD: addresses are chosen, the record is not written.
    AddReserved = "add-reserved";
    /// ADD: the record "adding" is written.
    AddRecorded = "add-recorded";
    /// ADD: the veth pair is there, both sides down.
    AddLinked = "add-linked";
    /// ADD: `from_pod` is attached.
    AddAttached = "add-attached";
    /// ADD: the pod's addresses are in `PODS`.
    AddMapped = "add-mapped";
    /// ADD: the host side is up, with routes and neighbours.
    AddConnected = "add-connected";
    /// ADD: the pod's side is up, with addresses and routes.
    AddConfigured = "add-configured";
    /// ADD: ports of the host lead to the pod.
    AddPublished = "add-published";
    /// ADD: the record is "ready"; nobody has been told.
    AddReady = "add-ready";
    /// DEL: the record is "removing".
    DelRecorded = "del-recorded";
    /// DEL: the pod's addresses are out of `PODS`.
    DelUnmapped = "del-unmapped";
    /// DEL: the veth pair is gone.
    DelUnlinked = "del-unlinked";
    /// DEL: no pin of `from_pod` is left.
    DelDetached = "del-detached";
    /// DEL: the record is gone; nobody has been told.
    DelForgotten = "del-forgotten";
}

/// Called after each step.
pub(super) struct Steps(Box<dyn Fn(Step) + Send + Sync>);

impl Steps {
    /// Aborts the process after the step that `OXLAN_CRASH_AT` names, if it is set.
    pub(super) fn from_env() -> Self {
        let wanted = std::env::var(CRASH_AT).ok();
        let Some(step) = wanted.and_then(|w| Step::ALL.iter().find(|s| s.name() == w)) else {
            return Self(Box::new(|_| {}));
        };
        Self::new(move |reached| {
            if reached == *step {
                tracing::error!("{CRASH_AT} is set: aborting after {}", step.name());
                std::process::abort();
            }
        })
    }

    pub(super) fn new(reached: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Box::new(reached))
    }

    pub(super) fn reached(&self, step: Step) {
        (self.0)(step);
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}
