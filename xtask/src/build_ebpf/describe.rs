//! What is in a BPF object: programs with their hooks, maps with their types and sizes.

use std::fmt;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::btf::{Btf, MapDefinition};

/// Programs and maps of an object; printed as two tables.
pub(super) struct Description {
    programs: Vec<Program>,
    maps: Vec<MapDefinition>,
}

struct Program {
    name: String,
    section: String,
    instructions: u64,
}

/// Size of one BPF instruction, bytes.
const INSTRUCTION: u64 = 8;

/// Describes the ELF object in `data`.
pub(super) fn describe(data: &[u8]) -> Result<Description> {
    let elf = object::File::parse(data)?;
    let btf = elf
        .section_by_name(".BTF")
        .context("the object has no BTF")?;
    let maps = Btf::parse(btf.data()?)?.maps()?;
    Ok(Description {
        programs: programs(&elf)?,
        maps,
    })
}

fn programs(elf: &object::File<'_>) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for symbol in elf
        .symbols()
        .filter(|s| s.kind() == SymbolKind::Text && s.is_global())
    {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = elf.section_by_index(index)?.name()?.to_owned();
        if section != ".text" {
            let name = symbol.name()?.to_owned();
            programs.push(Program {
                name,
                section,
                instructions: symbol.size() / INSTRUCTION,
            });
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

impl Program {
    /// The hook. A TC program's section says only that it is one; where it is attached is the
    /// agent's business and part of the design.
    fn hook(&self) -> String {
        let place = match self.name.as_str() {
            "from_pod" => "TC ingress, host side of each pod's veth",
            "from_uplink" => "TC ingress, uplink",
            "from_overlay" => "TC ingress, oxlan0",
            "to_overlay" => "TC egress, oxlan0",
            "xdp_uplink" => "XDP in the driver, uplink",
            "watch_bpf" => "fexit, the bpf system call",
            _ => return self.section.clone(),
        };
        place.to_owned()
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14} {:<42} {:>12}", "PROGRAM", "HOOK", "INSTRUCTIONS")?;
        for program in &self.programs {
            writeln!(
                f,
                "{:<14} {:<42} {:>12}",
                program.name,
                program.hook(),
                program.instructions
            )?;
        }
        writeln!(
            f,
            "\n{:<14} {:<13} {:<20} {:<22} {:>9}",
            "MAP", "KIND", "KEY", "VALUE", "ENTRIES"
        )?;
        for map in &self.maps {
            let size = |(name, size): &(String, u32)| format!("{name} ({size} B)");
            let key = map.key.as_ref().map_or_else(|| "-".to_owned(), size);
            let value = map.value.as_ref().map_or_else(|| "-".to_owned(), size);
            let kind = map.kind();
            writeln!(
                f,
                "{:<14} {kind:<13} {key:<20} {value:<22} {:>9}",
                map.name, map.max_entries
            )?;
        }
        Ok(())
    }
}
