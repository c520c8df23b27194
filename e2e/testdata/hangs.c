/* A C loop that never returns, for hangs.py. */
void loop(void)
{
    for (volatile int i = 0;; i++)
        ;
}
