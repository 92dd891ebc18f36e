//! What should be, what is, and the steps between the two.
//!
//! [`desire`], [`host`], [`tables`] and [`filters`] are pure; [`observe`] reads and [`apply`]
//! changes. Nothing is ever flushed and filled again: what is right stays untouched, what differs
//! is changed, and what is no longer wanted goes last.

pub mod apply;
pub mod desire;
pub mod filters;
pub mod hops;
pub mod host;
pub mod mtu;
pub mod observe;
pub mod tables;
pub mod ways;

use std::fmt;

/// What was there instead of what should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// Nothing, because the device that it belongs to was gone.
    WithDevice,
    /// Something else, in words.
    Different(String),
    /// Something of ours that should not be there.
    Unwanted,
}

/// A step with what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned<S> {
    /// What to do.
    pub step: S,
    /// Why.
    pub found: Found,
}

impl<S: fmt::Display> Planned<S> {
    /// The step as a change that follows from a new state of the cluster or the node.
    #[must_use]
    pub fn as_change(&self) -> String {
        let step = &self.step;
        match &self.found {
            Found::Missing | Found::WithDevice => format!("added {step}"),
            Found::Different(was) => format!("changed {step} (was {was})"),
            Found::Unwanted => format!("removed {step}"),
        }
    }

    /// The step as the repair of what somebody else has done.
    #[must_use]
    pub fn as_repair(&self) -> String {
        let step = &self.step;
        match &self.found {
            Found::Missing => format!("put back {step}, which somebody removed"),
            Found::WithDevice => format!("put back {step}, which went with its device"),
            Found::Different(was) => format!("put back {step}, which somebody changed to {was}"),
            Found::Unwanted => format!("removed {step}, which somebody added"),
        }
    }
}
