//! Attachments over real namespaces and veths, with a fake datapath.

mod checks;
mod crash;
pub(crate) mod fixture;
mod life;
mod random;
mod trouble;
