//! The page in a real browser: what people see and press, from the first look to the repair.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails right there

mod browser;
mod many;
#[path = "../it/rig.rs"]
#[allow(dead_code)] // the rig serves more tests than these
mod rig;
mod story;
mod window;
