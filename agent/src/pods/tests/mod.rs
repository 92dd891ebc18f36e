//! Attachments over real namespaces and veths, with a fake datapath.

mod fixture;
mod life;
