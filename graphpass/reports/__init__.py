"""What users read: tables of a conversion, an inspection, a measure."""
