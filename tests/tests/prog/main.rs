//! Every program over packets, by `BPF_PROG_TEST_RUN`: tables of description, packet in, outcome, packet out.

mod from_overlay;
mod from_pod;
mod from_uplink;
mod neighbours;
mod objects;
mod refused;
mod to_overlay;
mod world;
