//! What each answer to a seam of the blob store promises: a macro that writes one test for each case.

mod broken;
pub mod catalog;
pub mod objects;
pub mod store;
