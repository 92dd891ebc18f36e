//! As much of BTF as map definitions need (Documentation/bpf/btf.rst).
//!
//! A map is a variable in the section `.maps`; its type is a struct whose members encode numbers as
//! array lengths (`type`, `max_entries`) and types as pointers (`key`, `value`).

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u16 = 0xeb9f;
const POINTER_SIZE: u32 = 8;

// Kinds of types, `BTF_KIND_*` (include/uapi/linux/btf.h).
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// A map as its definition in the object says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MapDefinition {
    pub(super) name: String,
    /// `enum bpf_map_type` (include/uapi/linux/bpf.h).
    pub(super) map_type: u32,
    pub(super) max_entries: u32,
    /// Type name and size in bytes.
    pub(super) key: Option<(String, u32)>,
    /// Type name and size in bytes.
    pub(super) value: Option<(String, u32)>,
}

impl MapDefinition {
    /// The kind as bpftool names it.
    pub(super) fn kind(&self) -> String {
        let name = match self.map_type {
            1 => "hash",
            2 => "array",
            5 => "percpu_hash",
            6 => "percpu_array",
            9 => "lru_hash",
            11 => "lpm_trie",
            27 => "ringbuf",
            other => return format!("type {other}"),
        };
        name.to_owned()
    }
}

/// A type: its kind, name, size or referred type, and the words behind the common header.
struct Type {
    kind: u32,
    name: u32,
    size_or_type: u32,
    rest: Vec<u32>,
}

/// Parsed BTF.
pub(super) struct Btf<'a> {
    types: Vec<Type>,
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Parses the content of an object's section `.BTF`.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self> {
        let magic = data
            .get(..2)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_le_bytes);
        ensure!(magic == Some(MAGIC), "this is not little-endian BTF");
        let header = |word: usize| word_at(data, word * 4).map(|value| value as usize);
        let (header_len, type_at, type_len) = (header(1)?, header(2)?, header(3)?);
        let (strings_at, strings_len) = (header(4)?, header(5)?);
        let section = |at: usize, len: usize| {
            data.get(header_len + at..header_len + at + len)
                .context("BTF ends before its own end")
        };
        let types = parse_types(section(type_at, type_len)?)?;
        Ok(Self {
            types,
            strings: section(strings_at, strings_len)?,
        })
    }

    /// The maps of the section `.maps`, by name.
    pub(super) fn maps(&self) -> Result<Vec<MapDefinition>> {
        let section = self
            .types
            .iter()
            .find(|t| t.kind == DATASEC && self.text(t.name).is_ok_and(|name| name == ".maps"))
            .context("the object has no section `.maps`")?;
        let mut maps = section
            .rest
            .chunks_exact(3)
            .map(|variable| self.map(self.get(variable[0])?))
            .collect::<Result<Vec<_>>>()?;
        maps.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(maps)
    }

    fn map(&self, variable: &Type) -> Result<MapDefinition> {
        let name = self.text(variable.name)?;
        let mut map = MapDefinition {
            name,
            map_type: 0,
            max_entries: 0,
            key: None,
            value: None,
        };
        self.add_members(self.get(variable.size_or_type)?, &mut map)?;
        Ok(map)
    }

    /// Members of wrappers (Rust's `UnsafeCell` and newtypes) count as the map's own.
    fn add_members(&self, definition: &Type, map: &mut MapDefinition) -> Result<()> {
        for member in definition.rest.chunks_exact(3) {
            match self.text(member[0])?.as_str() {
                "type" => map.map_type = self.number(member[1])?,
                "max_entries" => map.max_entries = self.number(member[1])?,
                "key" => map.key = self.pointee(member[1])?,
                "value" => map.value = self.pointee(member[1])?,
                _ => {
                    let inner = self.get(member[1])?;
                    if inner.kind == STRUCT || inner.kind == UNION {
                        self.add_members(inner, map)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The number that a pointer to an array encodes in the array's length.
    fn number(&self, pointer: u32) -> Result<u32> {
        let array = self.get(self.get(pointer)?.size_or_type)?;
        ensure!(
            array.kind == ARRAY,
            "a number of a map definition is not an array length"
        );
        array
            .rest
            .get(2)
            .copied()
            .context("an array without length")
    }

    /// Name and size of the type that a pointer is to; none for what takes no space, as `()`.
    fn pointee(&self, pointer: u32) -> Result<Option<(String, u32)>> {
        let id = self.get(pointer)?.size_or_type;
        let size = self.size(id)?;
        Ok(if size == 0 {
            None
        } else {
            Some((self.type_name(id)?, size))
        })
    }

    fn type_name(&self, id: u32) -> Result<String> {
        if id == 0 {
            return Ok("void".to_owned());
        }
        let ty = self.get(id)?;
        if ty.kind == ARRAY {
            return Ok(format!("[{}; {}]", self.type_name(ty.rest[0])?, ty.rest[2]));
        }
        self.text(ty.name)
    }

    fn size(&self, id: u32) -> Result<u32> {
        if id == 0 {
            return Ok(0);
        }
        let ty = self.get(id)?;
        match ty.kind {
            INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT => Ok(ty.size_or_type),
            PTR => Ok(POINTER_SIZE),
            ARRAY => Ok(self.size(ty.rest[0])? * ty.rest[2]),
            TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => self.size(ty.size_or_type),
            kind => bail!("a type of kind {kind} has no size"),
        }
    }

    fn get(&self, id: u32) -> Result<&Type> {
        let index = (id as usize)
            .checked_sub(1)
            .context("void where a type is wanted")?;
        self.types
            .get(index)
            .with_context(|| format!("there is no type {id}"))
    }

    fn text(&self, offset: u32) -> Result<String> {
        let bytes = self
            .strings
            .get(offset as usize..)
            .context("a name outside the strings")?;
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .context("a name without end")?;
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

fn parse_types(mut data: &[u8]) -> Result<Vec<Type>> {
    const HEADER_WORDS: usize = 3;
    let mut types = Vec::new();
    while !data.is_empty() {
        let info = word_at(data, 4)?;
        let kind = info >> 24 & 0x1f;
        let words = rest_words(kind, info & 0xffff)?;
        let rest = (0..words)
            .map(|i| word_at(data, (HEADER_WORDS + i) * 4))
            .collect::<Result<_>>()?;
        types.push(Type {
            kind,
            name: word_at(data, 0)?,
            size_or_type: word_at(data, 8)?,
            rest,
        });
        data = &data[(HEADER_WORDS + words) * 4..];
    }
    Ok(types)
}

/// Words behind the common header, by kind and number of members.
fn rest_words(kind: u32, members: u32) -> Result<usize> {
    let members = members as usize;
    Ok(match kind {
        INT | VAR | DECL_TAG => 1,
        ARRAY => 3,
        STRUCT | UNION | DATASEC | ENUM64 => 3 * members,
        ENUM | FUNC_PROTO => 2 * members,
        PTR | 7..=12 | FLOAT | TYPE_TAG => 0,
        other => bail!("unknown BTF kind {other}"),
    })
}

fn word_at(data: &[u8], at: usize) -> Result<u32> {
    let bytes = data.get(at..at + 4).context("BTF ends inside a type")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects strings and types as the linker would lay them out.
    #[derive(Default)]
    struct Builder {
        strings: Vec<u8>,
        types: Vec<u8>,
    }

    impl Builder {
        fn text(&mut self, text: &str) -> u32 {
            let at = self.strings.len();
            self.strings.extend(text.bytes().chain([0]));
            u32::try_from(at).unwrap()
        }

        fn add(&mut self, kind: u32, name: &str, members: u32, size_or_type: u32, rest: &[u32]) {
            let name = self.text(name);
            for word in [name, kind << 24 | members, size_or_type]
                .iter()
                .chain(rest)
            {
                self.types.extend(word.to_le_bytes());
            }
        }

        fn finish(self) -> Vec<u8> {
            let types = u32::try_from(self.types.len()).unwrap();
            let strings = u32::try_from(self.strings.len()).unwrap();
            let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types, types, strings];
            let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend(self.types);
            bytes.extend(self.strings);
            bytes
        }
    }

    #[test]
    fn a_map_is_read() {
        let mut b = Builder::default();
        b.text("");
        b.add(INT, "u32", 0, 4, &[32]); // 1
        b.add(ARRAY, "", 0, 0, &[1, 1, 9]); // 2: [u32; 9]
        b.add(PTR, "", 0, 2, &[]); // 3
        b.add(ARRAY, "", 0, 0, &[1, 1, 64]); // 4: [u32; 64]
        b.add(PTR, "", 0, 4, &[]); // 5
        b.add(PTR, "", 0, 1, &[]); // 6
        b.add(PTR, "", 0, 2, &[]); // 7
        let names = ["type", "key", "value", "max_entries"].map(|name| b.text(name));
        let members = [
            names[0], 3, 0, names[1], 6, 64, names[2], 7, 128, names[3], 5, 192,
        ];
        b.add(STRUCT, "Definition", 4, 32, &members); // 8
        let cell = b.text("inner");
        b.add(STRUCT, "Cell", 1, 32, &[cell, 8, 0]); // 9
        b.add(VAR, "PODS", 0, 9, &[1]); // 10
        b.add(DATASEC, ".maps", 1, 32, &[10, 0, 32]); // 11
        let bytes = b.finish();
        let maps = Btf::parse(&bytes).unwrap().maps().unwrap();
        let wanted = MapDefinition {
            name: "PODS".to_owned(),
            map_type: 9,
            max_entries: 64,
            key: Some(("u32".to_owned(), 4)),
            value: Some(("[u32; 9]".to_owned(), 36)),
        };
        assert_eq!(maps, [wanted]);
        assert_eq!(maps[0].kind(), "lru_hash");
        assert!(Btf::parse(&bytes[..bytes.len() - 40]).is_err());
    }
}
