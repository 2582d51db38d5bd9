"""How a box exists on one machine. Knows no database, no HTTP and no account; `contract` is what it promises."""
