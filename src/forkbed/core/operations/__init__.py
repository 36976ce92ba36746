"""Operations: the durable record of every change, and the rules of which may run beside which."""
