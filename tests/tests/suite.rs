//! All tests over real sockets.

mod admin;
mod cache;
mod cli;
mod compiling;
mod connections;
mod docs;
mod feed;
mod floors;
mod hostile;
mod hot;
mod keys;
mod languages;
mod limits;
mod live_set;
mod memory;
mod nodes;
mod plugin_state;
mod plugins;
mod protocol;
mod recovery;
mod rfc6455;
mod sessions;
mod signatures;
mod stalled;
mod vital;
mod watching;
