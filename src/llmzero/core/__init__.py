"""What both halves share: the stage contract, the catalogues, files, errors."""
