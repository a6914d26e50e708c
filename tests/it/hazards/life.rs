//! Load and life.

mod admin;
mod crowds;
mod descriptors;
mod ending;
mod floods;
mod heads;
mod refused;
mod revival;
