//! The wire protocol, in detail.

mod filters;
mod frames;
mod greeting;
mod live;
mod publishing;
mod rooms;
mod sessions;
