# Sourced by scripts that start mpirun on one machine: lets root start it, allows more ranks than cores, and lets
# waiting ranks give way. For the script's own children only.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1
