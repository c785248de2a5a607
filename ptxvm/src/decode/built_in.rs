//! Functions that the driver provides: `printf` and `assert`.

use crate::count::Class;
use crate::decode::decoder::{Decoder, Result};
use crate::instruction::{Op, Print, Space};

impl Decoder<'_, '_> {
    pub(super) fn built_in(&mut self, name: &str) -> Result<()> {
        let op = match name {
            "vprintf" => {
                self.arity(2, 3)?;
                let first = self.operands() - 2;
                let result = match first {
                    0 => None,
                    _ => Some(self.address(0, Space::Param)?),
                };
                let format = self.address(first, Space::Param)?;
                let arguments = self.address(first + 1, Space::Param)?;
                Op::Print(Box::new(Print { format, arguments, result }))
            }
            "__assertfail" => {
                self.arity(5, 5)?;
                let mut address = |n| self.address(n, Space::Param);
                let operands = [address(0)?, address(1)?, address(2)?, address(3)?];
                Op::AssertFail(Box::new(operands))
            }
            _ => Op::BadCall,
        };
        self.push(op, Class::Control);
        Ok(())
    }
}
