//! Attachments over real namespaces and veths, with a fake datapath.

mod crash;
pub(crate) mod fixture;
mod life;
mod random;
mod trouble;
