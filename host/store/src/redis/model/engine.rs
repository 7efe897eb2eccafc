//! Runs the store's scripts as Redis does: Lua 5.1, the same text, numbers and absent values converted as Redis converts them.

use super::server::{Reply, Server};
use crate::redis::link::Script;
use fred::types;
use mlua::{Function, Lua, Table, Value, Variadic};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

/// What a mutation makes of a script: its name, a piece of its text, and what is there instead.
pub(super) type Patch = (&'static str, &'static str, &'static str);

pub(super) struct Engine {
    lua: Lua,
    compiled: RefCell<BTreeMap<&'static str, Function>>,
    patches: Vec<Patch>,
    pub server: Rc<RefCell<Server>>,
}

impl Engine {
    pub(super) fn new(patches: &[Patch]) -> Self {
        let lua = Lua::new();
        let server = Rc::new(RefCell::new(Server::new()));
        let called = server.clone();
        let call = lua.create_function(move |lua, words: Variadic<Value>| {
            let words: Vec<String> = words.iter().map(word).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let reply = called.borrow_mut().call(&words);
            given(lua, reply)
        });
        let redis = lua.create_table().expect("a table");
        redis.set("call", call.expect("a function")).expect("a field");
        lua.globals().set("redis", redis).expect("a global");
        Self { lua, compiled: RefCell::default(), patches: patches.to_vec(), server }
    }

    pub(super) fn run(&self, script: &Script, keys: &[String], arguments: &[String]) -> types::Value {
        let function = self.compile(script);
        let globals = self.lua.globals();
        let list = |texts: &[String]| self.lua.create_sequence_from(texts.iter().map(String::as_str));
        globals.raw_set("KEYS", list(keys).expect("a table")).expect("a global");
        globals.raw_set("ARGV", list(arguments).expect("a table")).expect("a global");
        let result: Value = function.call(()).unwrap_or_else(|error| panic!("{}: {error}", script.name));
        taken(&result)
    }

    fn compile(&self, script: &Script) -> Function {
        let mut compiled = self.compiled.borrow_mut();
        let compile = || {
            let mut code = script.code.clone();
            for (_, is, instead) in self.patches.iter().filter(|(name, ..)| *name == script.name) {
                assert!(code.contains(is), "{} has no '{is}'", script.name);
                code = code.replace(is, instead);
            }
            self.lua.load(code).set_name(script.name).into_function().expect("it compiles")
        };
        compiled.entry(script.name).or_insert_with(compile).clone()
    }
}

/// An argument of `redis.call`.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_str().expect("the model's texts are UTF-8").to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        other => panic!("an argument is a {}", other.type_name()),
    }
}

/// What `redis.call` gives.
fn given(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Integer(number) => Value::Number(number as f64),
        Reply::Text(text) => Value::String(lua.create_string(text)?),
        Reply::List(list) => {
            let table: Table = lua.create_table_with_capacity(list.len(), 0)?;
            for (n, reply) in list.into_iter().enumerate() {
                table.raw_set(n + 1, given(lua, reply)?)?;
            }
            Value::Table(table)
        }
    })
}

/// What a script's caller gets.
fn taken(value: &Value) -> types::Value {
    match value {
        Value::Nil | Value::Boolean(false) => types::Value::Null,
        Value::Boolean(true) => types::Value::Integer(1),
        Value::Integer(number) => types::Value::Integer(*number),
        Value::Number(number) => types::Value::Integer(*number as i64),
        Value::String(text) => {
            types::Value::from(text.to_str().expect("the model's texts are UTF-8").to_owned())
        }
        Value::Table(table) => {
            // Redis stops at the first that is not there.
            let items =
                (1..).map(|n| table.raw_get::<Value>(n).expect("a table")).take_while(|item| !item.is_nil());
            types::Value::Array(items.map(|item| taken(&item)).collect())
        }
        other => panic!("a script gave a {}", other.type_name()),
    }
}

/// The same for a command that no script called.
pub(super) fn answered(reply: Reply) -> types::Value {
    match reply {
        Reply::Nil => types::Value::Null,
        Reply::Integer(number) => types::Value::Integer(number),
        Reply::Text(text) => types::Value::from(text),
        Reply::List(list) => types::Value::Array(list.into_iter().map(answered).collect()),
    }
}
