//! The smallest plugins that a node can tell apart: each limits the rooms of a connection to another number.

use bytes::Bytes;
use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, ExportKind, ExportSection, Function, FunctionSection, MemorySection,
    MemoryType, Module, TypeSection, ValType,
};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../../../sdk/wit/plugin.wit");
const WORLD: &str = "world tested { include base; export connect; }";

/// Where the answers are in the guest's memory; each is a record in the layout of the canonical ABI.
const DESCRIBED: u32 = 64;
const INITIALIZED: u32 = 128;
const LIMITS: u32 = 192;
const TEXTS: u32 = 256;
/// Where the host writes arguments, which the guest never reads.
const ARGUMENTS: u32 = 4096;

/// What a guest's connect hook does.
#[derive(Clone, Copy)]
pub(crate) enum Connect {
    /// It allows a connection this many rooms.
    LimitRooms(u32),
    Panic,
}

/// The code of a plugin that calls itself `version`, as a core module.
pub(crate) fn guest(version: &str, connect: Connect) -> Bytes {
    let mut types = TypeSection::new();
    let i32s = |count| vec![ValType::I32; count];
    for parameters in [0, 2, 15, 4] {
        types.ty().function(i32s(parameters), i32s(1));
    }
    let mut functions = FunctionSection::new();
    let mut exports = ExportSection::new();
    let mut code = CodeSection::new();
    let names = ["lifecycle@0.2.0#describe", "lifecycle@0.2.0#init", "connect@0.2.0#authorize"];
    let names = names.map(|name| format!("switchyard:plugin/{name}"));
    let names = names.iter().map(String::as_str).chain(["cabi_realloc"]);
    for (index, (name, answer)) in (0..).zip(names.zip([DESCRIBED, INITIALIZED, LIMITS, ARGUMENTS])) {
        functions.function(index);
        exports.export(name, ExportKind::Func, index);
        let mut function = Function::new([]);
        match (answer, connect) {
            (LIMITS, Connect::Panic) => function.instructions().unreachable().end(),
            _ => function.instructions().i32_const(answer as i32).end(),
        };
        code.function(&function);
    }
    exports.export("memory", ExportKind::Memory, 0);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });

    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let name = "tested";
    let (name_at, version_at) = (TEXTS, TEXTS + name.len() as u32);
    let hooks = 1; // connect
    let described =
        words(&[name_at, name.len() as u32, version_at, version.len() as u32, hooks, 0, 0, 0, 0, 0, 0, 0, 0]);
    let rooms = match connect {
        Connect::LimitRooms(rooms) => rooms,
        Connect::Panic => 0,
    };
    let mut data = DataSection::new();
    for (at, bytes) in [
        (DESCRIBED, described),
        (LIMITS, words(&[0, 1, rooms, 0, 0, 0, 0])),
        (TEXTS, format!("{name}{version}").into_bytes()),
    ] {
        data.active(0, &ConstExpr::i32_const(at as i32), bytes);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&exports);
    module.section(&code).section(&data);
    let mut module = module.finish();

    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", &format!("{CONTRACT}\n{WORLD}")).expect("the contract");
    let world = resolve.select_world(&[package], Some("tested")).expect("the world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    module.into()
}
