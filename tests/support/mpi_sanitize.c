/* Linked into the tests of sanitizer builds only: MPI unloads its plugins before the process ends,
 * and what they leaked could then no longer be told from our own leaks. Plugins stay loaded, so
 * that tests/lsan.supp can name them. */
int dlclose(void *handle);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}
