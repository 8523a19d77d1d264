//! Reads committed changes from the source.

pub mod assemble;
#[cfg(test)]
mod encode;
pub mod feedback;
pub mod pgoutput;
