//! Limits on how many functions, types and other items a WebAssembly file may contain. They are checked
//! before anything is compiled, because a small file can keep a compiler busy for minutes and take gigabytes.

use super::load::LoadErrorKind;
use wasmparser::{BinaryReaderError, FunctionBody, Parser, Payload};

/// Maximum numbers, over all modules of a file, by [`ItemKind`]. The largest known plugins contain engines
/// for JavaScript and Python; the limits are at least twice what those have.
const ITEM_LIMITS: [(&str, usize); ITEM_COUNT] = [
    ("functions", 60_000),
    ("bytes of one function", 2 << 20),
    ("local variables of one function", 20_000),
    ("types", 30_000),
    ("imports and exports", 30_000),
    ("tables", 256),
    ("elements of tables", 200_000),
    ("memories", 128),
    ("globals", 20_000),
    ("segments of data", 30_000),
    ("modules, components and instances", 1_000),
];
const ITEM_COUNT: usize = 11;

/// An index into [`ITEM_LIMITS`].
#[derive(Clone, Copy)]
enum ItemKind {
    Functions,
    FunctionBytes,
    Locals,
    Types,
    Names,
    Tables,
    Elements,
    Memories,
    Globals,
    Data,
    Modules,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct ItemCounts([usize; ITEM_COUNT]);

/// Rejects a file that contains too many items of any kind, however small it is.
pub(crate) fn check(bytes: &[u8]) -> Result<(), LoadErrorKind> {
    let mut counts = ItemCounts::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(damaged)?;
        let (item, count) = match &payload {
            Payload::FunctionSection(section) => (ItemKind::Functions, section.count()),
            Payload::TypeSection(section) => (ItemKind::Types, section.count()),
            Payload::ImportSection(section) => (ItemKind::Names, section.count()),
            Payload::ExportSection(section) => (ItemKind::Names, section.count()),
            Payload::MemorySection(section) => (ItemKind::Memories, section.count()),
            Payload::GlobalSection(section) => (ItemKind::Globals, section.count()),
            Payload::DataSection(section) => (ItemKind::Data, section.count()),
            Payload::ComponentTypeSection(section) => (ItemKind::Types, section.count()),
            Payload::CoreTypeSection(section) => (ItemKind::Types, section.count()),
            Payload::ComponentImportSection(section) => (ItemKind::Names, section.count()),
            Payload::ComponentExportSection(section) => (ItemKind::Names, section.count()),
            Payload::ComponentAliasSection(section) => (ItemKind::Names, section.count()),
            Payload::ComponentCanonicalSection(section) => (ItemKind::Functions, section.count()),
            Payload::InstanceSection(section) => (ItemKind::Modules, section.count()),
            Payload::ComponentInstanceSection(section) => (ItemKind::Modules, section.count()),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => (ItemKind::Modules, 1),
            Payload::CodeSectionEntry(body) => {
                check_function(body)?;
                continue;
            }
            Payload::TableSection(section) => {
                counts.add(ItemKind::Tables, section.count() as usize)?;
                for table in section.clone() {
                    let elements = table.map_err(damaged)?.ty.initial;
                    counts.add(ItemKind::Elements, usize::try_from(elements).unwrap_or(usize::MAX))?;
                }
                continue;
            }
            Payload::ElementSection(section) => {
                counts.add(ItemKind::Elements, section.range().len())?;
                continue;
            }
            _ => continue,
        };
        counts.add(item, count as usize)?;
    }
    Ok(())
}

impl ItemCounts {
    fn add(&mut self, item: ItemKind, count: usize) -> Result<(), LoadErrorKind> {
        let sum = &mut self.0[item as usize];
        *sum = sum.saturating_add(count);
        check_limit(item, *sum)
    }
}

fn check_function(body: &FunctionBody<'_>) -> Result<(), LoadErrorKind> {
    let mut locals = 0_usize;
    for local in body.get_locals_reader().map_err(damaged)? {
        locals = locals.saturating_add(local.map_err(damaged)?.0 as usize);
    }
    check_limit(ItemKind::FunctionBytes, body.range().len())?;
    check_limit(ItemKind::Locals, locals)
}

fn check_limit(item: ItemKind, count: usize) -> Result<(), LoadErrorKind> {
    let (items, limit) = ITEM_LIMITS[item as usize];
    if count > limit { Err(LoadErrorKind::TooManyItems { items, count, limit }) } else { Ok(()) }
}

pub(super) fn damaged(error: BinaryReaderError) -> LoadErrorKind {
    LoadErrorKind::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section of a core module.
    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id], &*leb(content.len()), content].concat()
    }

    fn leb(mut n: usize) -> Vec<u8> {
        let mut bytes = vec![];
        loop {
            let byte = (n & 0x7f) as u8;
            n >>= 7;
            bytes.push(if n == 0 { byte } else { byte | 0x80 });
            if n == 0 {
                return bytes;
            }
        }
    }

    fn module(sections: &[Vec<u8>]) -> Vec<u8> {
        [b"\0asm\x01\0\0\0".as_slice(), &sections.concat()].concat()
    }

    /// A module with `count` functions of `locals` local variables each.
    fn functions(count: usize, locals: usize) -> Vec<u8> {
        let types = section(1, &[1, 0x60, 0, 0]);
        let declared = section(3, &[leb(count), vec![0; count]].concat());
        let body = [&[1][..], &leb(locals), &[0x7f, 0x0b]].concat();
        let body = [leb(body.len()), body].concat();
        let code = section(10, &[leb(count), body.repeat(count)].concat());
        module(&[types, declared, code])
    }

    fn rejection(bytes: &[u8]) -> String {
        check(bytes).expect_err("too many items").to_string()
    }

    #[test]
    fn a_small_file_with_too_many_functions_is_rejected() {
        let most = ITEM_LIMITS[ItemKind::Functions as usize].1;
        assert!(check(&functions(1000, 3)).is_ok());
        let small = functions(100_000, 1);
        assert!(small.len() < 700_000);
        let error = rejection(&small);
        assert!(error.contains(&format!("100000 functions, but at most {most} are allowed")), "{error}");
    }

    #[test]
    fn local_variables_tables_and_table_elements_are_limited() {
        let error = rejection(&functions(1, 50_000));
        assert!(error.contains("50000 local variables of one function"), "{error}");
        let table = |elements: usize| [&[0x70, 0][..], &leb(elements)].concat();
        let tables = |count: usize, elements: usize| {
            module(&[section(4, &[leb(count), table(elements).repeat(count)].concat())])
        };
        assert!(check(&tables(4, 1000)).is_ok());
        assert!(rejection(&tables(300, 1)).contains("300 tables"));
        assert!(rejection(&tables(1, 10_000_000)).contains("10000000 elements of tables"));
    }

    #[test]
    fn a_truncated_file_is_damaged() {
        let bytes = functions(10, 1);
        assert!(matches!(check(&bytes[..bytes.len() - 5]), Err(LoadErrorKind::Damaged(_))));
    }
}
