//! `canary-holder`: keeps the hexadecimal lines that it is given on its heap as bytes, says
//! `holding` after an empty line, and waits for the end of its input.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "whoever started it reads what it says")]

use std::error::Error;
use std::io::{self, BufRead as _};

fn main() -> Result<(), Box<dyn Error>> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut lines = io::stdin().lock().lines();
    for line in lines.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        held.push(hex::decode(line)?);
    }
    println!("holding");
    for line in lines {
        line?;
    }
    std::hint::black_box(held);
    Ok(())
}
