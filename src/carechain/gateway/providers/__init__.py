"""Resources that are made when they are asked for, mostly from the ledger (CON-10, AUD-5, ID-4, REC-11)."""
