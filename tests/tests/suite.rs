//! Everything that is tested over real sockets.

mod feed;
mod hostile;
mod plugins;
mod recovery;
