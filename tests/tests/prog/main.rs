//! Every program over packets, by `BPF_PROG_TEST_RUN`: tables of description, packet in, outcome, packet out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test reports"
)]

mod case;
mod direct;
mod features;
mod flows;
mod from_overlay;
mod from_pod;
mod from_uplink;
mod from_uplink_refused;
mod hops;
mod neighbours;
mod objects;
mod over_ipv6;
mod programs;
mod refused;
mod to_overlay;
mod too_big;
mod tunnel;
mod verifier;
mod watch;
mod world;
mod xdp_link;
mod xdp_uplink;
