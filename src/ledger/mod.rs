//! Lockstep's own tables and functions: what is installed where, and how it goes away again.
