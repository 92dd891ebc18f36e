//! How much of the verifier's patience each program takes.

use aya::programs::{ProgramInfo, loaded_programs};
use oxlan::datapath::Program;
use oxlan_tests::fact::tell;

use crate::world::OwnWorld;

/// Instructions that the verifier looks at before it refuses a program (include/linux/bpf.h,
/// `BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u32 = 1_000_000;

/// The share of it that a program may take here, so that another kernel or compiler, which may need
/// several times as much, does not refuse it.
const SHARE: u32 = 4;

#[tokio::test]
async fn every_program_leaves_room() {
    let Some(world) = OwnWorld::empty() else {
        return;
    };
    for program in Program::ALL {
        let info = ProgramInfo::from_pin(world.program_pin(program)).unwrap();
        check(program.name(), &info);
    }
    // What is tried out is loaded for that.
    let _ = world.datapath.features(None, None);
    check("probe_room", &loaded("probe_room"));
    let Ok(_watcher) = world.datapath.watch_changes() else {
        return;
    };
    check("watch_bpf", &loaded("watch_bpf"));
}

/// The program of that name that was loaded last.
fn loaded(name: &str) -> ProgramInfo {
    let infos = loaded_programs().filter_map(Result::ok);
    let found = infos.filter(|info| info.name_as_str() == Some(name)).last();
    found.expect("it is loaded")
}

fn check(program: &str, info: &ProgramInfo) {
    let verified = info.verified_instruction_count().expect("since Linux 5.16");
    let length = info.size_translated().unwrap_or(0) / 8;
    tell(&format!("verified {program} {verified} {length}"));
    assert!(
        verified <= LIMIT / SHARE,
        "{program}: the verifier looked at {verified} instructions, of {LIMIT} that it allows"
    );
}
