//! What each answer to a seam of the blob store promises: a macro that writes one test for each case.

pub mod objects;
