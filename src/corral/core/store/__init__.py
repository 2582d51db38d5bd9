"""The database: one file on the host, one writer thread, several readers.

Owns the engine, transactions, the lock on the data folder and the migrations. Must not know what a table means;
each capability declares its tables on `schema.METADATA`, and its migrations are here in one history.
"""
