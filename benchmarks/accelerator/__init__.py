"""What only an accelerator can show: scores as on the CPU, memory that runs out, waits, speed."""
