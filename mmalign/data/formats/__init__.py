"""One file per format of rows: from a foreign row to a canonical one."""
