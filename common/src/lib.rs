//! What Oxlan's BPF programs and its agent must agree on: addresses, map keys and values,
//! drop reasons, wire constants, and the forwarding decision itself.
//!
//! Nothing here calls a BPF helper or the operating system, so all of it is tested on the host.
#![no_std]

pub mod addr;
pub mod bench;
pub mod counters;
pub mod decide;
pub mod limit;
pub mod maps;
pub mod packet;
pub mod wire;
