//! The wire contract, word by word.

mod filters;
mod frames;
mod greeting;
mod live;
mod publishing;
mod rooms;
mod sessions;
