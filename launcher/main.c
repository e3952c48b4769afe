/* The command. Everything else of the launcher is a library, so that tests reach it. */
#include "launcher/command.h"

int main(int argc, char **argv)
{
    return gln_command_main(argc, argv);
}
