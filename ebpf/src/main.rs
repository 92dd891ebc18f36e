//! Oxlan's TC programs: entry points only.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{classifier, fexit};
use aya_ebpf::programs::{FExitContext, TcContext};

#[classifier]
fn from_pod(_ctx: TcContext) -> i32 {
    maps::PODS.get_ptr(oxlan_common::addr::Addr::UNSPECIFIED);
    maps::ROUTES.get_ptr(oxlan_common::maps::RouteKey {
        prefix: oxlan_common::addr::Addr::UNSPECIFIED,
        prefix_len: 0,
    });
    maps::VTEPS.get_ptr(oxlan_common::addr::Addr::UNSPECIFIED);
    maps::CONFIG.get_ptr(0);
    maps::COUNTERS.get_ptr(0);
    maps::BULK.get_ptr(0);
    -1
}

#[classifier]
fn from_uplink(_ctx: TcContext) -> i32 {
    -1
}

#[classifier]
fn from_overlay(_ctx: TcContext) -> i32 {
    -1
}

#[classifier]
fn to_overlay(_ctx: TcContext) -> i32 {
    -1
}

#[fexit]
fn watch_bpf(ctx: FExitContext) -> i32 {
    if ctx.tgid() != maps::AGENT_PID.load() {
        let _ = maps::AUDIT.output(
            oxlan_common::maps::AuditRecord {
                pid: ctx.tgid(),
                command: 0,
            },
            0,
        );
    }
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
