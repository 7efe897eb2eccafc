//! How much of everything a file has, counted before anything is compiled: a small file may take a compiler minutes and
//! gigabytes.

use super::load::LoadFault;
use std::ops::Range;
use wasmparser::{BinaryReaderError, FunctionBody, Parser, Payload};

/// What may be in a file, all modules of it together. The largest that are known are engines for JavaScript and Python; each has
/// at least twice what they have.
const MOST: [(&str, usize); LEN] = [
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
const LEN: usize = 11;

/// Places in [`MOST`].
#[derive(Clone, Copy)]
enum Part {
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
struct Extent([usize; LEN]);

/// Refuses what has too much of something, however small the file is.
pub(crate) fn check(bytes: &[u8]) -> Result<(), LoadFault> {
    measure(bytes).map(drop)
}

fn measure(bytes: &[u8]) -> Result<Extent, LoadFault> {
    let mut extent = Extent::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(damaged)?;
        let (part, count) = match &payload {
            Payload::FunctionSection(section) => (Part::Functions, section.count()),
            Payload::TypeSection(section) => (Part::Types, section.count()),
            Payload::ImportSection(section) => (Part::Names, section.count()),
            Payload::ExportSection(section) => (Part::Names, section.count()),
            Payload::MemorySection(section) => (Part::Memories, section.count()),
            Payload::GlobalSection(section) => (Part::Globals, section.count()),
            Payload::DataSection(section) => (Part::Data, section.count()),
            Payload::ComponentTypeSection(section) => (Part::Types, section.count()),
            Payload::CoreTypeSection(section) => (Part::Types, section.count()),
            Payload::ComponentImportSection(section) => (Part::Names, section.count()),
            Payload::ComponentExportSection(section) => (Part::Names, section.count()),
            Payload::ComponentAliasSection(section) => (Part::Names, section.count()),
            Payload::ComponentCanonicalSection(section) => (Part::Functions, section.count()),
            Payload::InstanceSection(section) => (Part::Modules, section.count()),
            Payload::ComponentInstanceSection(section) => (Part::Modules, section.count()),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => (Part::Modules, 1),
            Payload::CodeSectionEntry(body) => {
                extent.body(body)?;
                continue;
            }
            Payload::TableSection(section) => {
                extent.add(Part::Tables, section.count() as usize)?;
                for table in section.clone() {
                    let elements = table.map_err(damaged)?.ty.initial;
                    extent.add(Part::Elements, usize::try_from(elements).unwrap_or(usize::MAX))?;
                }
                continue;
            }
            Payload::ElementSection(section) => {
                extent.add(Part::Elements, length(&section.range()))?;
                continue;
            }
            _ => continue,
        };
        extent.add(part, count as usize)?;
    }
    Ok(extent)
}

impl Extent {
    fn add(&mut self, part: Part, count: usize) -> Result<(), LoadFault> {
        let sum = &mut self.0[part as usize];
        *sum = sum.saturating_add(count);
        within(part, *sum)
    }

    fn body(&mut self, body: &FunctionBody<'_>) -> Result<(), LoadFault> {
        let bytes = length(&body.range());
        let mut locals = 0_usize;
        for local in body.get_locals_reader().map_err(damaged)? {
            locals = locals.saturating_add(local.map_err(damaged)?.0 as usize);
        }
        for (part, count) in [(Part::FunctionBytes, bytes), (Part::Locals, locals)] {
            within(part, count)?;
            let largest = &mut self.0[part as usize];
            *largest = count.max(*largest);
        }
        Ok(())
    }
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

fn within(part: Part, count: usize) -> Result<(), LoadFault> {
    let (what, most) = MOST[part as usize];
    if count > most { Err(LoadFault::Extent { what, count, most }) } else { Ok(()) }
}

pub(super) fn damaged(error: BinaryReaderError) -> LoadFault {
    LoadFault::Damaged(error.to_string())
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

    /// So many functions, each with so many local variables.
    fn functions(count: usize, locals: usize) -> Vec<u8> {
        let types = section(1, &[1, 0x60, 0, 0]);
        let declared = section(3, &[leb(count), vec![0; count]].concat());
        let body = [&[1][..], &leb(locals), &[0x7f, 0x0b]].concat();
        let body = [leb(body.len()), body].concat();
        let code = section(10, &[leb(count), body.repeat(count)].concat());
        module(&[types, declared, code])
    }

    fn refused(bytes: &[u8]) -> String {
        check(bytes).expect_err("it has too much").to_string()
    }

    #[test]
    fn a_file_of_many_functions_is_refused_before_it_is_compiled() {
        let most = MOST[Part::Functions as usize].1;
        assert!(check(&functions(1000, 3)).is_ok());
        let small = functions(100_000, 1);
        assert!(small.len() < 700_000);
        let error = refused(&small);
        assert!(error.contains(&format!("100000 functions, and a plugin may have {most}")), "{error}");
    }

    #[test]
    fn locals_tables_and_their_elements_are_counted() {
        let error = refused(&functions(1, 50_000));
        assert!(error.contains("50000 local variables of one function"), "{error}");
        let table = |elements: usize| [&[0x70, 0][..], &leb(elements)].concat();
        let tables = |count: usize, elements: usize| {
            module(&[section(4, &[leb(count), table(elements).repeat(count)].concat())])
        };
        assert!(check(&tables(4, 1000)).is_ok());
        assert!(refused(&tables(300, 1)).contains("300 tables"));
        assert!(refused(&tables(1, 10_000_000)).contains("10000000 elements of tables"));
    }

    #[test]
    fn what_is_cut_off_is_damaged() {
        let bytes = functions(10, 1);
        assert!(matches!(check(&bytes[..bytes.len() - 5]), Err(LoadFault::Damaged(_))));
    }
}
