//! Runs the store's scripts as Redis does: in Lua 5.1, converting numbers and missing values in the same way.

use super::fake_redis::{FakeRedis, Reply};
use crate::redis::link::Script;
use fred::types;
use mlua::{Function, Lua, Table, Value, Variadic};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

/// A change of a script: its name, a piece of its text, and the replacement.
pub(super) type Patch = (&'static str, &'static str, &'static str);

pub(super) struct ScriptEngine {
    lua: Lua,
    compiled: RefCell<BTreeMap<&'static str, Function>>,
    patches: Vec<Patch>,
    pub server: Rc<RefCell<FakeRedis>>,
}

impl ScriptEngine {
    pub(super) fn new(patches: &[Patch]) -> Self {
        let lua = Lua::new();
        let server = Rc::new(RefCell::new(FakeRedis::new()));
        let called = server.clone();
        let call = lua.create_function(move |lua, words: Variadic<Value>| {
            let words: Vec<String> = words.iter().map(argument).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let reply = called.borrow_mut().call(&words);
            to_lua(lua, reply)
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
        from_lua(&result)
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

/// Converts an argument of `redis.call`.
fn argument(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_str().expect("the model's texts are UTF-8").to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        other => panic!("an argument has the type {}", other.type_name()),
    }
}

/// Converts a reply to what `redis.call` returns.
fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Integer(number) => Value::Number(number as f64),
        Reply::Text(text) => Value::String(lua.create_string(text)?),
        Reply::List(list) => {
            let table: Table = lua.create_table_with_capacity(list.len(), 0)?;
            for (n, reply) in list.into_iter().enumerate() {
                table.raw_set(n + 1, to_lua(lua, reply)?)?;
            }
            Value::Table(table)
        }
    })
}

/// Converts what a script returns to what its caller gets.
fn from_lua(value: &Value) -> types::Value {
    match value {
        Value::Nil | Value::Boolean(false) => types::Value::Null,
        Value::Boolean(true) => types::Value::Integer(1),
        Value::Integer(number) => types::Value::Integer(*number),
        Value::Number(number) => types::Value::Integer(*number as i64),
        Value::String(text) => {
            types::Value::from(text.to_str().expect("the model's texts are UTF-8").to_owned())
        }
        Value::Table(table) => {
            // Redis stops at the first nil.
            let items =
                (1..).map(|n| table.raw_get::<Value>(n).expect("a table")).take_while(|item| !item.is_nil());
            types::Value::Array(items.map(|item| from_lua(&item)).collect())
        }
        other => panic!("a script returned a {}", other.type_name()),
    }
}

/// Converts the reply to a command that was not called by a script.
pub(super) fn reply_value(reply: Reply) -> types::Value {
    match reply {
        Reply::Nil => types::Value::Null,
        Reply::Integer(number) => types::Value::Integer(number),
        Reply::Text(text) => types::Value::from(text),
        Reply::List(list) => types::Value::Array(list.into_iter().map(reply_value).collect()),
    }
}
