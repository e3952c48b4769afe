# Sourced by scripts that start mpirun on one machine: lets root start it, allows more ranks than cores, and lets
# waiting ranks give way. For the script's own children only.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1
# Not set here: OMPI_MCA_odls_base_sigkill_timeout=0. It makes mpirun end ranks at once instead of after up to two seconds,
# and takes from them the second after Ctrl-C in which they save a checkpoint.
